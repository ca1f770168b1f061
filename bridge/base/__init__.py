"""What everything else may use.

errors     * what can go wrong because of somebody else
printable  * text made safe to print
escapes    * text as a person reads it
wire       * the control socket's lines, as a client writes and reads them
search     * what is looked for in a guest's output
codec      * the face of what stands between a client and the bytes
handover   * records, and the descriptors they speak of
"""
