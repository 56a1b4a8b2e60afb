"""TCC: temporal cycle consistency, a baseline on the encoder of CARL."""
