"""What a console's guest is doing, by what it prints, and what would help it to speak.

signs        * what there may be, and by which text it is known
reading      * a console's output, read
examination  * listens, presses Enter where that can do no harm, and listens again
advice       * what to do about what was found
diagnosis    * all of that as a person or a program reads it
session        an examination by way of a socket
visit          the same where no service runs: a console just for it
"""
