from video_ssl.objectives.cvrl.plan import Plan as Plan
