"""The persona-following judge: how it is asked, and whether its answers may be read.

Import its modules by name. Whoever asks a judge needs no calibration, and whoever reads
a calibration needs no judge.
"""
