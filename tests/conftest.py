"""Fixtures that every folder of tests may ask for."""

from tests.support.fixtures import bed, installed, service_folder, session_bed

__all__ = ["bed", "installed", "service_folder", "session_bed"]
