"""A client for the service `Echo` over Apache Thrift, in the form that the Thrift compiler generates."""

# mypy: allow-untyped-calls
# (Apache Thrift has no types.)

from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TMessageType, TType
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport


class ApacheEchoClient:
    """A generated client. Unlike the client of thriftpy2 it has no `close`; its transport has."""

    def __init__(self, protocol: TBinaryProtocol) -> None:
        self._iprot = self._oprot = protocol  # the attribute names of generated clients

    def echo(self, text: str) -> str | None:
        to_server = self._oprot
        to_server.writeMessageBegin("echo", TMessageType.CALL, 1)
        to_server.writeStructBegin("echo_args")
        to_server.writeFieldBegin("text", TType.STRING, 1)
        to_server.writeString(text)
        to_server.writeFieldEnd()
        to_server.writeFieldStop()
        to_server.writeStructEnd()
        to_server.writeMessageEnd()
        to_server.trans.flush()
        return self._result()

    def _result(self) -> str | None:
        from_server, result = self._iprot, None
        name, kind, number = from_server.readMessageBegin()
        assert (name, kind, number) == ("echo", TMessageType.REPLY, 1)
        from_server.readStructBegin()
        while (field := from_server.readFieldBegin())[1] != TType.STOP:
            assert field[1:] == (TType.STRING, 0)  # the result's type and number
            result = str(from_server.readString())
            from_server.readFieldEnd()
        from_server.readStructEnd()
        from_server.readMessageEnd()
        return result


def connect(host: str, port: int) -> ApacheEchoClient:
    """Connect to an IPv4 address, an IPv6 address or a host name. Programs pass this to a `ThriftSet`."""
    socket = TSocket(host, port)
    socket.setTimeout(10_000)
    transport = TBufferedTransport(socket)
    transport.open()
    return ApacheEchoClient(TBinaryProtocol(transport))


def close(client: ApacheEchoClient) -> None:
    """Close a client. Programs pass this to a `ThriftSet`."""
    client._iprot.trans.close()
