"""Build script. Everything static is in ``setup.cfg``."""

from setuptools import setup

setup()
