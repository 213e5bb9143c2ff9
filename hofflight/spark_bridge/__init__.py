"""The engine under Spark: one query a partition, one Python worker a query."""
