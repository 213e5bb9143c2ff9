"""What `hof.open` gives: a store's verbs in this process."""

from hofflight.app.app import App

__all__ = ["App"]
