"""Encoders and heads."""

from __future__ import annotations

ENCODERS: dict[str, str] = {
    "vit": "video_ssl.models.vit:VideoViT",
    "image_vit": "video_ssl.models.image_vit:ImageViT",
    "pixels": "video_ssl.models.pixels:PixelEncoder",
}
