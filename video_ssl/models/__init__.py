"""Encoders and heads.  The table names every encoder; nothing is imported until one is asked for."""

#: architecture -> "module:class"; the class takes its frozen config and follows `encoders.Encoder`.
ENCODERS: dict[str, str] = {
    "vit": "video_ssl.models.networks.vit:VideoViT",
    "image_vit": "video_ssl.models.networks.image_vit:ImageViT",
    "r2plus1d": "video_ssl.models.networks.r2plus1d:R2Plus1D",
    "r3d": "video_ssl.models.networks.r3d:R3D",
    "zoo": "video_ssl.models.networks.zoo:ZooEncoder",
    "pixels": "video_ssl.models.networks.pixels:PixelEncoder",
    "frame_transformer": "video_ssl.models.networks.frame_transformer:FrameTransformer",
}

#: The same for flax: linen modules with a `config`, whose torch twins stand above under the same name.
FLAX_ENCODERS: dict[str, str] = {
    "r3d": "video_ssl.models.networks.r3d_flax:R3D",
}
