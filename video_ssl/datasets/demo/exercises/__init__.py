"""The first generated world: ten exercises made of key poses, seen from the side; kept for old results."""
