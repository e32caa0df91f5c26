// Live driving: poses from the server that the page comes from, as they are tracked.

export class Live {
  constructor(changed, say) {
    Object.assign(this, { changed, say, pose: null, poses: 0 });
    this.connect();
  }

  connect() {
    const socket = new WebSocket(`${location.origin.replace(/^http/, 'ws')}/poses`);
    socket.onmessage = ({ data }) => {
      this.pose = JSON.parse(data);
      this.poses += 1;
      this.changed();
    };
    socket.onopen = () => this.say('live');
    socket.onclose = () => {
      this.say('the viewer has stopped; the pose is held', true);
      setTimeout(() => this.connect(), 2000);
    };
  }

  /** The newest pose, the caller's own; null before the first. */
  now() {
    return this.pose && { ...structuredClone(this.pose), expression: Float32Array.from(this.pose.expression) };
  }
}
