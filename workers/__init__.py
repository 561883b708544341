"""Worker processes and their supervisor.

Three rules of this package: the supervisor and the template run no torch operator; the template starts no thread; a worker
answers with a version only after it has verified what it holds.
"""
