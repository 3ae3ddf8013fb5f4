"""Evaluation of a policy on problems, and how sure its numbers are."""
