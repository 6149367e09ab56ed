"""The persona-following judge: how it is asked, and whether its answers may be read."""
