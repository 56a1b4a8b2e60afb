"""Attentive probes: small heads that look at all tokens of a frozen encoder."""
