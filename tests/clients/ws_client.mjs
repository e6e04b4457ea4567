// A WebSocket client under orders, built on the npm package `ws`.
//
// Reads one JSON order a line from standard input and prints one JSON event a line; the words of
// both are those of `websockets_client.py` and are told in `driven.rs`. Ends when its input ends.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// `require` looks into NODE_PATH, where the packages live; `import` does not.
const { WebSocket } = createRequire(import.meta.url)('ws');

const tell = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
const socket = new WebSocket(process.argv[2], { handshakeTimeout: 20_000 });

socket.on('open', () => tell('open'));
socket.on('message', (data, isBinary) =>
  isBinary ? tell('binary', { b64: data.toString('base64') }) : tell('text', { data: data.toString() }));
socket.on('ping', (data) => tell('ping', { b64: data.toString('base64') }));
socket.on('pong', (data) => tell('pong', { b64: data.toString('base64') }));
socket.on('close', (code, reason) => tell('close', { code, reason: reason.toString() }));
socket.on('unexpected-response', (request, response) => {
  tell('refused', { status: response.statusCode });
  request.destroy();
});
// A failed connection and a broken frame also end in `close`, with the code that says so.
socket.on('error', (error) => process.stderr.write(`ws: ${error.message}\n`));

function obey(order) {
  switch (order.do) {
    case 'text':
      return socket.send(order.data);
    case 'binary':
      return socket.send(Buffer.from(order.b64, 'base64'));
    case 'fragments':
      return order.parts.forEach((part, i) => socket.send(part, { fin: i === order.parts.length - 1 }));
    case 'ping':
      return socket.ping(Buffer.from(order.b64, 'base64'));
    case 'close':
      return socket.close(order.code, order.reason);
    default:
      throw new Error(`unknown order ${order.do}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) obey(JSON.parse(line));
socket.terminate();
