"""Opens edgeface's files in every engine that a user may have, and writes docs/engines.md."""
