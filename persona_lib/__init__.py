"""Flatland's library: everything below the experiments; never imports pytest."""
