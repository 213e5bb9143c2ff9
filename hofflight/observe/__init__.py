"""WHAT HAPPENED: metrics and log events, every name in one file."""
