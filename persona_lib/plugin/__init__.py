"""The pytest plugin: options, hooks, fixtures, the choice of tests, the table at the end."""

pytest_plugins = ["persona_lib.plugin.hooks", "persona_lib.plugin.fixtures"]
