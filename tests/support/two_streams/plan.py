from video_ssl.clips.samples import Plan
from video_ssl.objectives.videomae.config import Config
from video_ssl.objectives.videomae.plan import Plan as VideoMAEPlan


def plans(config: Config) -> dict[str, Plan]:
    return {"video": VideoMAEPlan(config), "extra": VideoMAEPlan(config)}
