"""CARL: frame-wise representations by sequence contrastive learning."""
