// Publish and subscribe on Socket.IO: node socketio_server.js PORT
// Events: s(channel) is answered by k; p(channel, body) reaches the members of the channel as m(body).
const { Server } = require(process.env.SOCKETIO || "socket.io");
const http = require("http").createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false });
io.on("connection", (socket) => {
  const user = socket.handshake.auth.user;
  if (user) socket.join("user." + user);
  socket.on("s", (channel) => { socket.join(channel); socket.emit("k"); });
  socket.on("p", (channel, body) => { io.to(channel).emit("m", body); });
});
http.listen(Number(process.argv[2]), "127.0.0.1", 4096);
