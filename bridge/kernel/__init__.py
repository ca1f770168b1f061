"""What Linux tells and does.

sockdiag      whose sockets are where
listeners     has a VM begun to listen?
presence      who opens a PTY
homes         the user's own directories
runtime       the runtime directory: links, lock, leavings
succession    exec(2) with all that is open
"""
