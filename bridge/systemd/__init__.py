"""Under systemd.

notify         sd_notify
dbus         * D-Bus messages
manager        is this a stop or a restart?
fdstore        descriptors that outlive the process
unit         * the unit's text
supervision    what systemd is told, and when
"""
