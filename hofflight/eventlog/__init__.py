"""WHERE SERVERS AND WORKERS MEET: the protocols, and the logs that keep them."""
