"""The experiments: registrations, profiles, data and the pytest plugin."""
