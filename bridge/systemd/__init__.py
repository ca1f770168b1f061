"""Under systemd.

notify         sd_notify
dbus         * D-Bus messages
manager        is this a stop or a restart?
fdstore        descriptors that outlive the process
keeping        which those are, and what they mean
unit         * the unit's text
supervision    what systemd is told, and when
"""
