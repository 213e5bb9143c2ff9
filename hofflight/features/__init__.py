"""WHAT USERS WRITE: groups, expressions, windows, views, and the registry that keeps them."""
