"""What rebuilds the files that edgeface ships; see README.md."""
