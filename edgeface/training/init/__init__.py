"""Weights before the first step: copied, pruned, fitted."""
