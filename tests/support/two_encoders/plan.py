from video_ssl.objectives.videomae.plan import Plan as Plan
