"""Import of user files: detect the format, decode, and read within limits. Usable rows are kept, others reported.

Begin with `table_reader.read_table`.
"""
