from video_ssl.objectives.videomae.config import Config as Config
