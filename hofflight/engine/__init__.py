"""THE EMBEDDED WORKER: one turn decodes, computes, logs and answers what waited together."""
