#!/usr/bin/env python3
"""Keeps a listening socket while servers come and go, as a service manager does.

    keep_socket.py keep HOST:PORT PATH    listens, and gives the socket to whoever asks at PATH
    keep_socket.py run COMMAND...         becomes COMMAND, with the socket that is kept at $KEEPER as descriptor 3
"""
import os, socket, sys


def keep(address, path):
    host, port = address.rsplit(":", 1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(4096)
    at = socket.socket(socket.AF_UNIX)
    at.bind(path)
    at.listen(8)
    while True:
        asking, _ = at.accept()
        socket.send_fds(asking, [b"s"], [listener.fileno()])
        asking.close()


def run(command):
    asking = socket.socket(socket.AF_UNIX)
    asking.connect(os.environ["KEEPER"])
    _, descriptors, _, _ = socket.recv_fds(asking, 1, 1)
    asking.close()
    os.dup2(descriptors[0], 3)
    os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
    os.execvp(command[0], command)


keep(*sys.argv[2:]) if sys.argv[1] == "keep" else run(sys.argv[2:])
