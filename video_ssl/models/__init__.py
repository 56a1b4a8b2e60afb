"""Encoders and heads.  The table names every encoder; nothing is imported until one is asked for."""

#: architecture -> "module:class"; the class takes its frozen config and follows `encoders.Encoder`.
ENCODERS: dict[str, str] = {
    "vit": "video_ssl.models.vit:VideoViT",
    "image_vit": "video_ssl.models.image_vit:ImageViT",
    "pixels": "video_ssl.models.pixels:PixelEncoder",
}
