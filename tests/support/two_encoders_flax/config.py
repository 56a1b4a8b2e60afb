from video_ssl.objectives.cvrl.config import Config as Config
