"""A console's output as a file.

transcript  * from a stream to lines with their times
segments      which files a log has
file          the file: appended, rotated, compressed
consolelog    the reader of one scrollback
writer        the one thread that writes all logs
reader        all files of a log in order
view        * a log fit to be shown
"""
