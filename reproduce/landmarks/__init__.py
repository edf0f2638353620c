"""The net that says in one look where a face's five points are: its labels, its training, its files."""
