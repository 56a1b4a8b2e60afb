"""TCN: single-view time-contrastive learning, a baseline on the encoder of CARL."""
