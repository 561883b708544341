"""Versions, rollouts, journal and audit, the controller and the CLI."""
