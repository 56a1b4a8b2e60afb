"""Evaluators on frame features and frame labels: phases, order, progression, retrieval."""
