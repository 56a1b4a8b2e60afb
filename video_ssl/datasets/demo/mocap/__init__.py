"""Real human motion: 15 motion-capture clips (`mocap15.npz`; its notices lie beside it), put on the figure."""
