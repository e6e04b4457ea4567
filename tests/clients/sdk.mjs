// Centrifugo's SDK for JavaScript under orders: one client of the npm package `centrifuge`, on `ws`.
//
// Reads one JSON order a line from standard input and prints one JSON event a line; the words of
// both are those of `sdk.py` and are told in `sdk.rs`. Ends when its input ends. Its arguments are
// the URL and a JSON object with options of the client, where `asks` lists what the application is
// to be asked for: `token`, `data`.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// `require` looks into NODE_PATH, where the packages live; `import` does not.
const require = createRequire(import.meta.url);
const { Centrifuge, UnauthorizedError } = require('centrifuge');
const { WebSocket } = require('ws');

const tell = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

// What the SDK asks its application for is asked of the test, and answered by its order `give`.
const asked = [];
const ask = (what, channel) =>
  new Promise((resolve, reject) => {
    asked.push({ resolve, reject });
    tell('asks', { what, channel });
  });
function give(order) {
  const { resolve, reject } = asked.shift();
  if (order.failure === 'unauthorized') reject(new UnauthorizedError('not this one'));
  else if (order.failure) reject(new Error(order.failure));
  else resolve(order.value);
}
const GETTERS = { token: 'getToken', data: 'getData', state: 'getState' };
function options({ asks = [], ...given } = {}, channel) {
  for (const what of asks) given[GETTERS[what]] = () => ask(what, channel);
  return given;
}

const [url, given] = process.argv.slice(2);
const network = new EventTarget();
const client = new Centrifuge(url, {
  websocket: WebSocket,
  networkEventTarget: network,
  minReconnectDelay: 10,
  maxReconnectDelay: 100,
  ...options(JSON.parse(given)),
});

const person = ({ user, client, connInfo }) => ({ user, client, info: connInfo });
const publication = ({ data, offset, info }) => ({ data, offset, from: info && person(info) });
// What is told of each event, besides its name and channel.
const FIELDS = {
  connecting: ({ code, reason }) => ({ code, reason }),
  connected: ({ client, data }) => ({ client, data }),
  disconnected: ({ code, reason }) => ({ code, reason }),
  message: ({ data }) => ({ data }),
  error: ({ type, error }) => ({ type, code: error.code }),
  subscribing: ({ code, reason }) => ({ code, reason }),
  subscribed: ({ recoverable, positioned, wasRecovering, recovered, streamPosition, data }) => ({
    recoverable, positioned, recovering: wasRecovering, recovered, position: streamPosition, data,
  }),
  unsubscribed: ({ code, reason }) => ({ code, reason }),
  publication,
  join: ({ info }) => person(info),
  leave: ({ info }) => person(info),
};
function listen(emitter, prefix, names) {
  for (const name of names) {
    emitter.on(name, (context) => tell(prefix + name, { channel: context.channel, ...FIELDS[name](context) }));
  }
}
const OF_A_ROOM = ['subscribing', 'subscribed', 'unsubscribed', 'publication', 'join', 'leave'];
listen(client, '', ['connecting', 'connected', 'disconnected', 'message', 'error']);
// Rooms that the client has not asked for itself.
listen(client, 'server ', OF_A_ROOM);

function subscription(channel, given) {
  const known = client.getSubscription(channel);
  if (known) return known;
  const made = client.newSubscription(channel, {
    minResubscribeDelay: 10,
    maxResubscribeDelay: 100,
    ...options(given, channel),
  });
  listen(made, '', [...OF_A_ROOM, 'error']);
  return made;
}

// Each of these is answered.
const CALLS = {
  publish: ({ channel, data }) => client.publish(channel, data).then(() => null),
  presence: async ({ channel }) => {
    const { clients } = await client.presence(channel);
    return Object.fromEntries(Object.entries(clients).map(([id, one]) => [id, person(one)]));
  },
  stats: async ({ channel }) => {
    const { numClients, numUsers } = await client.presenceStats(channel);
    return [numClients, numUsers];
  },
  history: async ({ channel, ...how }) => {
    const { publications, ...position } = await client.history(channel, how);
    return { ...position, publications: publications.map(publication) };
  },
  rpc: ({ method, data }) => client.rpc(method, data),
  send: ({ data }) => client.send(data).then(() => null),
  state: async ({ channel }) => (channel ? client.getSubscription(channel) : client).state,
};

async function call(order) {
  try {
    tell('answer', { value: await CALLS[order.do](order) });
  } catch (error) {
    tell('refused', { code: error.code, message: error.message });
  }
}

function obey(order) {
  switch (order.do) {
    case 'connect':
      return client.connect();
    case 'disconnect':
      return client.disconnect();
    case 'subscribe':
      return subscription(order.channel, order.options).subscribe();
    case 'unsubscribe':
      return client.getSubscription(order.channel).unsubscribe();
    case 'forget':
      return client.removeSubscription(client.getSubscription(order.channel));
    case 'give':
      return give(order);
    // What the browser would say about the network.
    case 'offline':
    case 'online':
      return network.dispatchEvent(new Event(order.do));
    // Several, with nothing in between.
    case 'all':
      return order.orders.forEach(obey);
    // One order from within a handler.
    case 'once': {
      const emitter = order.channel ? client.getSubscription(order.channel) : client;
      return emitter.once(order.on, () => obey(order.then));
    }
    default:
      return call(order);
  }
}

for await (const line of createInterface({ input: process.stdin })) obey(JSON.parse(line));
process.exit();
