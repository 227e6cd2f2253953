"""What every folder of tests shares: fixtures, and how hypothesis behaves on a machine that is busy."""

from hypothesis import HealthCheck, settings

from tests.support.fixtures import bed, installed, quick_watchers, real_watchers, service_folder, session_bed

__all__ = ["bed", "installed", "quick_watchers", "real_watchers", "service_folder", "session_bed"]

settings.register_profile("no-clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-clock")
