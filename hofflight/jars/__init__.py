"""JARS OF OTHERS: a Java to run them, and Maven to fetch them once, pinned byte by byte."""

from hofflight.jars.pinned import kafka_jars, spark_jars

__all__ = ["kafka_jars", "spark_jars"]
