// What a page of an application does with Centrifugo's SDK: it stays in one room, shows what comes,
// and when it is loaded again goes on behind the last publication that it has shown.
//
// The page's address says `daemon`, `room` and, where tokens are needed, `token`. What the SDK tells
// is in `window.told`.
const { daemon, room, token } = Object.fromEntries(new URLSearchParams(location.search));
const told = (window.told = []);
const client = (window.client = new Centrifuge(`ws://${daemon}/connection/websocket`, {
  minReconnectDelay: 10,
  maxReconnectDelay: 100,
  ...(token && { token }),
}));
for (const name of ['connecting', 'connected', 'disconnected']) {
  client.on(name, ({ code }) => told.push([name, code]));
}
client.on('message', ({ data }) => told.push(['message', data]));

const position = JSON.parse(sessionStorage.getItem(room));
const keep = (position) => sessionStorage.setItem(room, JSON.stringify(position));
const subscription = client.newSubscription(room, position ? { since: position } : {});
let epoch = position?.epoch;
subscription.on('subscribed', ({ recovered, wasRecovering, streamPosition }) => {
  told.push(['subscribed', wasRecovering, recovered]);
  ({ epoch } = streamPosition);
  keep(streamPosition);
});
subscription.on('unsubscribed', ({ code }) => told.push(['unsubscribed', code]));
subscription.on('publication', ({ data, offset }) => {
  told.push(['publication', data]);
  keep({ epoch, offset });
});
window.say = (data) => subscription.publish(data).then(() => null);
subscription.subscribe();
client.connect();
