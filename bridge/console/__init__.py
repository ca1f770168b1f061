"""The hub of one console.  Knows neither sockets nor PTYs.

scrollback  * the ring of past output
echo        * bytes found again in output
pacing      * how many bytes may be on their way to the guest
patience    * whom reading upstream may pause for
queue       * what one has typed and the guest has not been sent
states      * the states, and the sentence for each
history     * what has happened at a console
manners     * how those are treated who come in by an endpoint
replay      * what of the past a terminal may be shown
channel       a descriptor that never blocks
ends        * what a console has at its two ends
console       the hub: feed, kick, and the accounting
attach        one local session
"""
