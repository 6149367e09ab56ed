"""Gates, claims, the kill criterion, and what is said beside them; plans and power."""
