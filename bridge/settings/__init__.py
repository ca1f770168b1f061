"""What a user may say.

url      * where a console is
monitor  * where a machine's QMP is
access   * what it takes to be let in
values   * what one value may be
toml     * the text of a file
config     from TOML or words to records
reload   * what a new configuration asks of the consoles that are there
"""
