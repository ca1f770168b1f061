"""The hub of one console.  Knows neither sockets nor PTYs.

scrollback  * the ring of past output
echo        * bytes found again in output
pacing      * how many bytes may be on their way to the guest
patience    * whom reading upstream may pause for
states      * the states, and the sentence for each
manners     * how those are treated who come in by an endpoint
replay      * what of the past a terminal may be shown
channel       a descriptor that never blocks
console       the hub: feed, kick, and the accounting
attach        one local session
"""
