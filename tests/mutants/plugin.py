"""How hypothesis behaves while the code is broken on purpose: the same examples each time, and nothing that
fails for being slow, so that what fails is the mutant. A failure is not made small, for nobody reads it.
"""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutants",
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")
